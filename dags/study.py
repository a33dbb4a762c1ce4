"""How similar is the pool to the test sets, and what does that buy? One Airflow DAG for each file in `studies/`."""

from pathlib import Path

from operators.stage import publish, resolve, stage
from operators.study import studies, study_dag

for path, study in studies(Path(__file__).with_name("studies")):
    with study_dag(path, study):
        resolved = resolve(str(path))
        fetched = stage("fetch", resolved)
        samples = stage("ingest", resolved, fetched)
        whole = stage("split", resolved, samples, only="encoder")
        encoder = stage("train", resolved, samples, whole, only="encoder")
        vectors = stage("embed", resolved, samples, encoder)
        thresholds = stage("search", resolved, vectors, of="reference")
        found = stage("search", resolved, vectors, thresholds, of="pool")
        splits = stage("split", resolved, samples, found)
        certificates = stage("verify", resolved, splits, vectors, thresholds)
        models = stage("train", resolved, splits, certificates)
        predictions = stage("evaluate", resolved, models)
        scores = stage("score", resolved, predictions)
        page = stage("report", resolved, scores)
        publish(resolved, page)
