-- What did each split score? Percent, with 95 % intervals; of several seeds the mean, from the lowest bound to the highest.
with scored as (
    select split, test_set, metric, avg(value) * 100 as value, min(low) * 100 as low, max(high) * 100 as high
    from scores
    group by split, test_set, metric
),
told as (select *, format('{:.1f} [{:.1f}, {:.1f}]', value, low, high) as cell from scored),
sizes as (select split, any_value(samples) as samples from splits group by split)
select
    test_set, split, samples,
    any_value(cell) filter (where metric = 'top1') as top1_percent,
    any_value(cell) filter (where metric = 'top5') as top5_percent
from told join sizes using (split)
group by test_set, split, samples
order by test_set, any_value(value) filter (where metric = 'top5') desc, split
