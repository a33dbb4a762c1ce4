-- rows of a table ($table) whose run is not committed
with committed as (select run from runs)
select '$table' as "table", run, count(*) as "rows"
from $table anti join committed using (run)
group by run
order by run
