-- exposures: how often training saw each source's samples, a mean over the seeds
-- in:  exposures(checkpoint, dataset, source, samples, yielded), checkpoints(checkpoint, split, seed), scores(checkpoint):
--      a model that was trained as the encoder alone is not here
-- out: split, source (with its data set before it where that is another name), samples, yielded
with named as (
    select split, checkpoint, samples, yielded,
           case when source is null or source = dataset then dataset else dataset || ' · ' || source end as source
    from exposures join checkpoints using (checkpoint) semi join scores using (checkpoint)
),
by_model as (
    select split, checkpoint, source, sum(samples) as samples, sum(yielded) as yielded
    from named group by all
)
select split, source, avg(samples) as samples, avg(yielded) as yielded
from by_model
group by split, source
order by all
