-- threshold: the samples that are no more similar than `above` to any query of the named test sets
-- in: candidates(dataset, sample_id), proximity(dataset, sample_id, test_set, max_similarity), tests(test_set), parameters(above)     out: members(dataset, sample_id)
with too_similar as (
    select dataset, sample_id from proximity semi join tests using (test_set) cross join parameters where max_similarity > above
)
select dataset, sample_id from candidates anti join too_similar using (dataset, sample_id)
