-- the samples that a split keeps, of a study ($study is its schema)
select dataset, shard, key, sample_id
from $study.members join $study.samples using (dataset, sample_id)
where split = $split
order by dataset, sample_id
