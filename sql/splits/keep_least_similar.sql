-- keep_least_similar: the `count` samples that are least similar to the named test sets; ties go to the smaller sample_id
-- in: candidates(dataset, sample_id), proximity(dataset, sample_id, test_set, max_similarity), tests(test_set), parameters(count)     out: members(dataset, sample_id)
with nearest as (
    select dataset, sample_id, max(max_similarity) as similarity
    from proximity semi join tests using (test_set)
    group by dataset, sample_id
),
ranked as (
    select dataset, sample_id, row_number() over (order by similarity asc, sample_id) as place
    from candidates join nearest using (dataset, sample_id)
)
select dataset, sample_id from ranked cross join parameters where place <= count
