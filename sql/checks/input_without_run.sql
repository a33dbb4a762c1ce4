-- runs that read a run which is not committed
with committed as (select run as input from runs)
select run, input
from run_inputs anti join committed using (input)
order by all
