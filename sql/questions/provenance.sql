-- Where does each score come from? Its run, the runs that one read, and the code that did it.
select scores.split, scores.test_set, scores.metric, round(scores.value, 4) as value, scores.run, input, made.stage, made.code_version
from scores join run_inputs using (run) join runs as made on made.run = input
order by all
