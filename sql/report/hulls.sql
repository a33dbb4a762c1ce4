-- hulls: which sources the samples in each test set's hull come from
-- in:  proximity(dataset, sample_id, encoder, reference, test_set, hits), samples(dataset, sample_id, source)
-- out: encoder, reference, test_set, source (the data set's name where a sample has none),
--      samples (of that source, searched), hull (of those, in the hull)
with searched as (
    select encoder, reference, test_set, coalesce(source, dataset) as source, hits
    from proximity left join (select dataset, sample_id, source from samples) using (dataset, sample_id)
)
select encoder, reference, test_set, source, count(*) as samples, count(*) filter (hits > 0) as hull
from searched
group by all
order by encoder, reference, test_set, hull desc, source
