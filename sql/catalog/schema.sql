-- The catalog's tables: one statement each, columns in order. `simgap.catalog` fills them, or makes each a view of these
-- columns over the parquet files that run.json files name. The comment after a table's name says which it is.

create table datasets (dataset varchar, role varchar, uri varchar, shards bigint, samples bigint, bytes bigint, sha256 varchar, run varchar);
create table shards (dataset varchar, role varchar, shard varchar, uri varchar, bytes bigint, sha256 varchar, etag varchar, listed bigint, done bigint, failed bigint, run varchar); -- view
create table samples (dataset varchar, sample_id bigint, shard varchar, key varchar, caption varchar, label bigint, width_px integer, height_px integer, sha256 varchar, source varchar, licence varchar, run varchar); -- view
create table failures (dataset varchar, shard varchar, key varchar, stage varchar, reason varchar, run varchar); -- view
create table embeddings (dataset varchar, encoder varchar, modality varchar, sample_id bigint, vector float[], run varchar); -- view
create table neighbours ("of" varchar, encoder varchar, test_set varchar, query_id bigint, rank integer, dataset varchar, sample_id bigint, similarity double, run varchar); -- view
create table thresholds (reference varchar, encoder varchar, test_set varchar, query_id bigint, tau double, sample_id bigint, run varchar); -- view
create table proximity (dataset varchar, encoder varchar, reference varchar, test_set varchar, sample_id bigint, max_similarity double, nearest_query bigint, margin double, margin_query bigint, hits bigint, run varchar); -- view
create table query_counts (dataset varchar, encoder varchar, reference varchar, test_set varchar, query_id bigint, hull_count bigint, above_50 bigint, above_55 bigint, above_60 bigint, above_65 bigint, above_70 bigint, above_75 bigint, above_80 bigint, above_85 bigint, above_90 bigint, above_95 bigint, run varchar); -- view
create table duplicates (dataset varchar, encoder varchar, sample_id bigint, keeper_id bigint, similarity double, run varchar); -- view
create table splits (split varchar, rule varchar, parameters varchar, encoder varchar, reference varchar, with_reference boolean, samples bigint, of_samples bigint, run varchar);
create table members (split varchar, dataset varchar, sample_id bigint, run varchar); -- view
create table certificates (split varchar, encoder varchar, reference varchar, test_set varchar, queries bigint, exceeding bigint, largest_excess double, needlessly_removed bigint, mean_difference double, run varchar);
create table checkpoints (checkpoint varchar, split varchar, seed bigint, model varchar, epochs bigint, samples_seen bigint, uri varchar, run varchar);
create table training_log (checkpoint varchar, epoch integer, step bigint, samples_seen bigint, distinct_samples bigint, loss double, images_per_second double, run varchar); -- view
create table exposures (checkpoint varchar, dataset varchar, source varchar, samples bigint, yielded bigint, run varchar);
create table predictions (checkpoint varchar, test_set varchar, protocol varchar, query_id bigint, label bigint, predicted bigint, label_rank bigint, top5 bigint[], correct boolean, run varchar); -- view
create table scores (checkpoint varchar, split varchar, seed bigint, test_set varchar, protocol varchar, metric varchar, value double, low double, high double, n bigint, "interval" varchar, run varchar);
create table score_history (study varchar, checkpoint varchar, test_study varchar, test_set varchar, protocol varchar, metric varchar, value double, low double, high double, n bigint, previous double, difference double, ended timestamptz, dag_run varchar, run varchar);
create table comparisons (split varchar, other varchar, test_set varchar, protocol varchar, metric varchar, difference double, low double, high double, only_split bigint, only_other bigint, p double, p_holm double, run varchar);
create table explained_shares (test_set varchar, protocol varchar, metric varchar, pruned varchar, control varchar, share double, low double, high double, numerator double, denominator double, denominator_low double, denominator_high double, "interval" varchar, run varchar);
create table studies (study varchar, dag_run varchar, started timestamptz, ended timestamptz, state varchar, resolved varchar);
create table study_runs (study varchar, dag_run varchar, role varchar, run varchar);
create table runs (run varchar, stage varchar, name varchar, key varchar, revision bigint, content varchar, listed bigint, done bigint, failed bigint, dag_id varchar, dag_run varchar, task_id varchar, map_index bigint, try_number bigint, image varchar, code_version varchar, host varchar, device varchar, started timestamptz, ended timestamptz, seconds double);
create table run_inputs (run varchar, input varchar);
create table run_outputs (run varchar, name varchar, kind varchar, path varchar, "rows" bigint, bytes bigint, sha256 varchar);
