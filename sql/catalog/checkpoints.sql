-- checkpoints name their file within their run; the catalog says where in the store that is
update checkpoints
set uri = run_outputs.path
from run_outputs
where run_outputs.run = checkpoints.run and run_outputs.name = checkpoints.uri
