-- none: no sample of the pool; with the reference added, the reference alone
-- in: candidates(dataset, sample_id)     out: members(dataset, sample_id)
select dataset, sample_id from candidates where false
