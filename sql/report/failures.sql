-- failures: what could not be used, by reason
-- in:  failures
-- out: stage, dataset, reason, failed
select stage, dataset, reason, count(*) as failed
from failures
group by all
order by all
