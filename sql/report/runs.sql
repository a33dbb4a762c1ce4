-- runs: who made the numbers, in the order it was made
-- in:  runs
-- out: run, stage, name, revision, seconds, seconds_more (without those of the runs before it), code_version, device
with timed as (
    select *, max(ended) over (order by started, run rows between unbounded preceding and 1 preceding) as until
    from runs
)
select run, stage, name, revision, seconds, greatest(0, epoch(ended) - epoch(greatest(started, until))) as seconds_more,
       code_version, device
from timed
order by started, run
