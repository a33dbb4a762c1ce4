-- certificates: each pruned split as the check by other code found it
-- in:  certificates
-- out: its columns without the run
select split, test_set, encoder, reference, queries, exceeding, largest_excess, needlessly_removed, mean_difference
from certificates
order by all
