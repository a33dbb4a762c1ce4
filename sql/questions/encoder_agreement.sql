-- Over all studies: would another encoder have pruned the same samples? Overlap (Jaccard) of the hulls for each pair of encoders.
with hull as (select distinct encoder, reference, test_set, dataset, sample_id from proximity where hits > 0),
sizes as (select encoder, reference, test_set, count(*) as samples from hull group by all),
shared as (
    select a.encoder, b.encoder as other, reference, test_set, count(*) as samples
    from hull as a join hull as b using (reference, test_set, dataset, sample_id)
    where a.encoder < b.encoder
    group by all
)
select
    shared.encoder, other, reference, test_set, a.samples as hull, b.samples as other_hull, shared.samples as in_both,
    round(shared.samples / (a.samples + b.samples - shared.samples), 4) as overlap
from shared
join sizes as a using (encoder, reference, test_set)
join (select encoder as other, * exclude (encoder) from sizes) as b using (other, reference, test_set)
order by all
