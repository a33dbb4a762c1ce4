"""
## Every checkpoint on every test set
Each night, and when a study told Airflow of a new checkpoint or test set, this DAG finds the cells of checkpoint x test set
that are missing or stale, and answers those alone: of the checkpoints and test sets of each study's latest finished run, and
of checkpoints that `simgap register` brought. A cell is stale when its test set changed, when its checkpoint was made anew,
or when a later version evaluates otherwise. With nothing stale no stage is started.

A cell that fails does not hold the others back; the run then fails at its end, after all else is published. The run's note
says what changed and by how much: `simgap sql "from reevaluate.scores"` is the table as it is now, and
`simgap sql "from score_history"` has every answer since the first.

**checkpoints** and **tests** in the form choose a part, as `<study>/<name>` or `registered/<name>`.
"""

from operators.reevaluate import all_answered, find_stale, publish_cells, reevaluate_dag
from operators.stage import stage

with reevaluate_dag(__doc__):
    stale = find_stale()
    samples = stage("ingest", stale, partly=True)
    predictions = stage("evaluate", stale, samples, partly=True)
    scores = stage("score", stale, predictions, partly=True)
    all_answered(publish_cells(stale, scores))
