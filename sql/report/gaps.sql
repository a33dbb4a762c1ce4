-- gaps: how similar each query's nearest sample is, in the pool, in the reference and in each split
-- in:  neighbours, thresholds, datasets(dataset, role), splits(split)
-- out: of ('the pool', 'the reference data' or a split), kind, encoder, test_set, queries,
--      level (0 to 1 by 0.01), similarity (that share of the queries has a nearest sample no more similar than this)
with first as (
    select "of", encoder, test_set, query_id, similarity from neighbours where rank = 1
),
pool as (
    select 'the pool' as "of", 'pool' as kind, encoder, test_set, query_id, max(similarity) as similarity
    from first semi join (from datasets where role = 'pool') d on d.dataset = first."of"
    group by all
),
reference as (
    select 'the reference data' as "of", 'reference' as kind, encoder, test_set, query_id, tau as similarity
    from thresholds
),
trained as (
    select "of", 'split' as kind, encoder, test_set, query_id, similarity
    from first semi join splits on splits.split = first."of"
),
quantiles as (
    select "of", kind, encoder, test_set, count(*) as queries,
           quantile_cont(similarity, list_transform(range(101), lambda i: i / 100)) as similarities
    from (from pool union all by name from reference union all by name from trained)
    group by all
)
select "of", kind, encoder, test_set, queries,
       (generate_subscripts(similarities, 1) - 1) / 100 as level, unnest(similarities) as similarity
from quantiles
order by all
