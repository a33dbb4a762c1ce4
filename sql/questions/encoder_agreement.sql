-- Would another encoder have pruned the same samples? Overlap (Jaccard) of the hulls for each pair of encoders.
with hull as (select encoder, test_set, dataset, sample_id from proximity where hits > 0),
sizes as (select encoder, test_set, count(*) as samples from hull group by all),
shared as (
    select a.encoder as encoder, b.encoder as other, a.test_set, count(*) as samples
    from hull as a join hull as b using (test_set, dataset, sample_id)
    where a.encoder < b.encoder
    group by all
)
select
    shared.encoder, other, shared.test_set, a.samples as hull, b.samples as other_hull, shared.samples as in_both,
    round(shared.samples / (a.samples + b.samples - shared.samples), 4) as overlap
from shared
join sizes as a on a.encoder = shared.encoder and a.test_set = shared.test_set
join sizes as b on b.encoder = shared.other and b.test_set = shared.test_set
order by all
