-- comparisons: what one split has over another on each test set
-- in:  comparisons, scores(split, seed)
-- out: the columns of comparisons without the run, and seeds
with seeds as (
    select split, count(distinct seed) as seeds from scores group by split
)
select split, other, test_set, protocol, metric, difference, low, high, only_split, only_other, p, p_holm, seeds
from comparisons left join seeds using (split)
order by split, other, test_set, protocol, metric
