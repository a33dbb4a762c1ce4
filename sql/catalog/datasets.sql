-- datasets: each data set as ingested, from its shards; the checksum is that of the sorted list of paths, sizes and hashes
insert into datasets
select
    dataset,
    any_value(role) as role,
    min(left(uri, length(uri) - length(shard))) as uri,
    count(*) as shards,
    sum(done)::bigint as samples,
    sum(bytes)::bigint as bytes,
    sha256(string_agg(concat_ws(' ', shard, bytes, sha256), chr(10) order by shard)) as sha256,
    run
from shards
group by dataset, run
