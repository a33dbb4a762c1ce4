-- Which pool samples are most similar to a test image?
select
    test_set, round(max_similarity, 4) as similarity, p.dataset, s.source, s.caption, q.caption as query, s.shard, s.key
from proximity as p
join samples as s on s.dataset = p.dataset and s.sample_id = p.sample_id
join samples as q on q.dataset = p.test_set and q.sample_id = p.nearest_query
order by max_similarity desc, p.sample_id
limit 50
