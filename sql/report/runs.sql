-- runs: who made the numbers, in the order it was made
-- in:  runs
-- out: run, stage, name, revision, seconds, code_version, device
select run, stage, name, revision, seconds, code_version, device
from runs
order by started, run
