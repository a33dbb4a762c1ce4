-- all: every sample of the pool
-- in: candidates(dataset, sample_id)     out: members(dataset, sample_id)
select dataset, sample_id from candidates
