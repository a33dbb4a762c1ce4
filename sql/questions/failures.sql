-- What could not be used, and why?
select dataset, stage, regexp_replace(reason, '[0-9]+', 'N', 'g') as reason, count(*) as failed, min(shard) as first_shard, min(key) as first_key
from failures
group by all
order by failed desc, dataset
