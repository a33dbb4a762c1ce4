-- random: as many samples as another split has, stratum by stratum (one stratum, unless matched by columns), in the order of md5(seed, sample_id)
-- in: candidates(dataset, sample_id, stratum), likes(dataset, sample_id), parameters(seed)     out: members(dataset, sample_id)
with wanted as (
    select stratum, count(*) as samples from candidates semi join likes using (dataset, sample_id) group by stratum
),
drawn as (
    select
        dataset, sample_id, stratum,
        row_number() over (partition by stratum order by md5(concat(seed, ' ', sample_id)), sample_id) as place
    from candidates cross join parameters
)
select dataset, sample_id from drawn join wanted using (stratum) where place <= samples
