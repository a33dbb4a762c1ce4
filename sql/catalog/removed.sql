-- the pool's samples that a split does not have, of a study ($study is its schema)
with kept as (select dataset, sample_id from $study.members where split = $split),
pool as (select dataset from $study.datasets where role = 'pool')
select dataset, shard, key, sample_id
from $study.samples semi join pool using (dataset) anti join kept using (dataset, sample_id)
order by dataset, sample_id
