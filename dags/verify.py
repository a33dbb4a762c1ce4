"""
## Is everything still as it was?
Each week, and when triggered in Airflow, this DAG goes through two checks. `check_store` has `simgap store check` look at the
store. `certify_again` does every certificate of the studies' latest finished runs once more from the stored vectors, beside
the store, and compares it with what was committed. A difference or a damaged file fails the run; its task's log says which.
"""

from operators.verify import certify_again, check_store, find_certificates, verify_dag

with verify_dag(__doc__):
    check_store()
    certify_again(find_certificates())
