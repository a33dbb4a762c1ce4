-- How similar is each data set to each test set? Quantiles over queries of the similarity to the nearest sample.
select
    "of", test_set, count(*) as queries,
    round(quantile_cont(similarity, 0.05), 4) as p05, round(median(similarity), 4) as median,
    round(quantile_cont(similarity, 0.95), 4) as p95
from neighbours
where rank = 1
group by "of", test_set
order by test_set, median desc, "of"
