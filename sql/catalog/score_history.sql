-- score_history: the answers of each cell in their order. An answer is an evaluation's score (`run` is the evaluation), and
-- is of the first DAG run that gave it: those that found it again are left out.
insert into score_history
with finished as (select study, dag_run, ended from studies where state = 'success'),
held as (select run, content from runs),
-- evaluate/<checkpoint>/<test set> in a study; evaluate/<study>/<checkpoint>/<study>/<test set> in a re-evaluation
evaluations as (
    select study as asked_by, dag_run, ended, run, content,
        string_split(if(study = 'reevaluate', role, concat_ws('/', 'evaluate', study, split_part(role, '/', 2), study, split_part(role, '/', 3))), '/') as cell
    from study_runs join finished using (study, dag_run) join held using (run)
    where role like 'evaluate/%'
),
-- what a score run read is known by its content, as in keys
scored as (
    select study as asked_by, dag_run, content, scores.*
    from study_runs join scores using (run) join run_inputs using (run) join held on held.run = input
    where split_part(role, '/', 1) = 'score'
),
answers as (
    select cell[2] as study, cell[3] as checkpoint, cell[4] as test_study, cell[5] as test_set, protocol, metric,
        arg_min(value, ended) as value, arg_min(low, ended) as low, arg_min(high, ended) as high, arg_min(n, ended) as n,
        arg_min(dag_run, ended) as dag_run, min(ended) as ended, evaluations.run
    from evaluations join scored using (asked_by, dag_run, content)
    where scored.checkpoint = cell[3] and scored.test_set = cell[5]
    group by cell, protocol, metric, evaluations.run
)
select study, checkpoint, test_study, test_set, protocol, metric, value, low, high, n,
    lag(value) over earlier as previous, value - previous as difference, ended, dag_run, run
from answers
window earlier as (partition by study, checkpoint, test_study, test_set, protocol, metric order by ended, run)
