-- results: each split's accuracy on each test set, its seeds taken together
-- in:  scores, splits(split, samples)
-- out: split, samples, test_set, protocol, metric, seeds, n, value (mean of the seeds),
--      low and high (with several seeds: the lowest and the highest bound that a seed has)
with sizes as (
    select split, any_value(samples) as samples from splits group by split
)
select split, samples, test_set, protocol, metric, count(*) as seeds, any_value(n) as n,
       avg(value) as value, min(low) as low, max(high) as high
from scores left join sizes using (split)
group by all
order by all
