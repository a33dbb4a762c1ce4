-- pairs: each test set's most similar pool samples, no sample and no query twice
-- in:  neighbours(of = a pool data set), datasets, samples, shards(dataset, shard, uri, etag, sha256); $most, pairs a test set
-- out: encoder, test_set, similarity; of the pool sample and of the query: id, key, caption, shard (uri, etag, sha256);
--      pool_source, query_label
with nearest as (
    select encoder, test_set, query_id, dataset, sample_id, similarity
    from neighbours semi join (from datasets where role = 'pool') d on d.dataset = neighbours."of"
    where rank = 1
    qualify row_number() over (partition by encoder, test_set, query_id order by similarity desc, sample_id) = 1
),
once as (
    from nearest
    qualify row_number() over (partition by encoder, test_set, sample_id order by similarity desc, query_id) = 1
),
best as (
    from once
    qualify row_number() over (partition by encoder, test_set order by similarity desc, query_id) <= $most
),
placed as (
    select dataset, sample_id, key, caption, label, coalesce(source, dataset) as source,
           {uri: uri, etag: etag, sha256: shards.sha256} as place
    from samples join shards using (dataset, shard)
)
select best.encoder, best.test_set, best.similarity,
       best.sample_id as pool_id, pool.key as pool_key, pool.caption as pool_caption, pool.source as pool_source,
       pool.place as pool_shard,
       best.query_id, query.key as query_key, query.caption as query_caption, query.label as query_label,
       query.place as query_shard
from best
join placed pool on (pool.dataset, pool.sample_id) = (best.dataset, best.sample_id)
join placed query on (query.dataset, query.sample_id) = (best.test_set, best.query_id)
order by best.encoder, best.test_set, best.similarity desc, best.query_id
