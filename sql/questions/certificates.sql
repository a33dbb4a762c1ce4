-- Was each pruned split checked, and does it hold? Both counts have to be 0.
select split, test_set, queries, exceeding, largest_excess, needlessly_removed, mean_difference
from certificates
order by split, test_set
