-- data sets: what was read, under which licences
-- in:  datasets, samples(dataset, licence)
-- out: role, dataset, shards, samples, bytes, licences (the five most frequent with their samples, the rest as one)
with counted as (
    select dataset, coalesce(licence, 'not stated') as licence, count(*) as samples
    from samples group by all
),
placed as (
    select *, least(6, row_number() over (partition by dataset order by samples desc, licence)) as place from counted
),
named as (
    select dataset, place, sum(samples) as samples,
           if(place = 6, count(*) || ' others', any_value(licence)) as licence
    from placed group by dataset, place
),
licences as (
    select dataset, string_agg(licence || ': ' || format('{:,}', samples::bigint), ' · ' order by place) as licences
    from named group by dataset
)
select role, dataset, shards, samples, bytes, licences
from datasets left join licences using (dataset)
order by role, dataset
