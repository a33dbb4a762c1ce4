-- what runs wrote that is not in the store (`listed`: path and bytes of all files there)
select run, name, path
from run_outputs anti join listed using (path)
order by all
