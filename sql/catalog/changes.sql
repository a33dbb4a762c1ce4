-- what a DAG run answered anew, a row a cell, the largest change first
select study || '/' || checkpoint as checkpoint, test_study || '/' || test_set as test_set,
    list({metric: metric, value: value, difference: difference} order by metric) as metrics
from main.score_history
where dag_run = $dag_run
group by all
order by max(abs(difference)) desc nulls last, checkpoint, test_set
