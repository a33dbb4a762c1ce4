-- How does top-5 accuracy change with the similarity of a test image to its nearest training image? Bins 0.05 wide.
with nearest as (select "of" as split, test_set, query_id, similarity from neighbours where rank = 1)
select
    split, test_set, floor(similarity * 20) / 20 as similarity_from, count(*) as images,
    round(100.0 * avg((label_rank <= 5)::integer), 1) as top5_percent
from predictions join checkpoints using (checkpoint) join nearest using (split, test_set, query_id)
group by all
order by split, test_set, similarity_from
