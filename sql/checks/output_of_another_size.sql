-- what runs wrote that has another size in the store (`listed`: path and bytes of all files there)
select run, name, path, run_outputs.bytes as bytes, listed.bytes as bytes_there
from run_outputs join listed using (path)
where run_outputs.bytes <> listed.bytes
order by all
