-- lost neighbours: right and wrong of a pruned split and its control, on queries that lost neighbours and on the others
-- in:  pruned_for(split, test_set) from the study, splits, query_counts, comparisons(split, other), predictions,
--      checkpoints
-- out: split, other, test_set, protocol, metric, lost, split_right and other_right (a boolean for each seed, in order),
--      queries (how many have this pattern)
with counts as (
    select pruned_for.split, test_set, query_id, sum(hull_count) > 0 as lost
    from query_counts
    join pruned_for using (test_set)
    semi join splits on splits.split = pruned_for.split
        and splits.encoder = query_counts.encoder and splits.reference = query_counts.reference
    group by all
),
answers as (
    select split, seed, test_set, protocol, query_id, metric, label_rank <= most as correct
    from predictions join checkpoints using (checkpoint)
    cross join (values ('top1', 1), ('top5', 5)) metrics(metric, most)
),
pairs as (
    select distinct split, other from comparisons
),
patterns as (
    select a.split, pairs.other, a.test_set, a.protocol, a.metric, counts.lost, a.query_id,
           list(a.correct order by a.seed) as split_right, list(b.correct order by a.seed) as other_right
    from pairs
    join answers a on a.split = pairs.split
    join answers b on b.split = pairs.other
        and (b.seed, b.test_set, b.protocol) = (a.seed, a.test_set, a.protocol)
        and (b.query_id, b.metric) = (a.query_id, a.metric)
    join counts on (counts.split, counts.test_set, counts.query_id) = (a.split, a.test_set, a.query_id)
    group by all
)
select * exclude (query_id), count(*) as queries
from patterns
group by all
order by all
