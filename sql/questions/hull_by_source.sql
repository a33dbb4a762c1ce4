-- Which sources lie in the hull of each test set, and how much of each?
select
    test_set, source, count(*) as samples, count(*) filter (where hits > 0) as in_hull,
    round(100.0 * count(*) filter (where hits > 0) / count(*), 1) as hull_percent
from proximity join samples using (dataset, sample_id)
group by test_set, source
order by test_set, in_hull desc, source
