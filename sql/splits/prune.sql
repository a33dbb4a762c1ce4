-- prune: the samples that lie in the hull of none of the named test sets
-- in: candidates(dataset, sample_id), proximity(dataset, sample_id, test_set, hits), tests(test_set)     out: members(dataset, sample_id)
with hull as (select dataset, sample_id from proximity semi join tests using (test_set) where hits > 0)
select dataset, sample_id from candidates anti join hull using (dataset, sample_id)
