-- explained shares: the part of what the pool adds over the reference that goes with the similar samples
-- in:  explained_shares
-- out: its columns without the run
select test_set, protocol, metric, pruned, control, share, low, high,
       numerator, denominator, denominator_low, denominator_high, interval
from explained_shares
order by all
