-- accuracy by similarity: how often a query is right, by the similarity of the nearest sample its model trained on
-- in:  predictions, checkpoints, neighbours(of = a split, rank = 1)
-- out: split, encoder, test_set, protocol, metric, similarity (a bin's lower end; bins are 0.05 wide, 1.0 is in the
--      last), queries, right_answers (mean over the seeds)
with nearest as (
    select "of" as split, encoder, test_set, query_id, least(floor(similarity * 20), 19) / 20 as bin
    from neighbours where rank = 1
),
answers as (
    select split, seed, test_set, protocol, query_id, metric, (label_rank <= most)::int as correct
    from predictions join checkpoints using (checkpoint)
    cross join (values ('top1', 1), ('top5', 5)) metrics(metric, most)
),
by_seed as (
    select split, seed, encoder, test_set, protocol, metric, bin, count(*) as queries, sum(correct) as correct
    from answers join nearest using (split, test_set, query_id)
    group by all
)
select split, encoder, test_set, protocol, metric, bin as similarity,
       any_value(queries) as queries, avg(correct) as right_answers
from by_seed
group by split, encoder, test_set, protocol, metric, bin
order by all
