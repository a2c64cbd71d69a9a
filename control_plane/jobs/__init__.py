"""Work that outlasts a call. The jobs table is the truth; whoever does the work reports to it.

Background tasks (reading manifests, moving entries, removing what was deleted) run in threads of the server. Trainings and
packagings run in child processes below dask's workers, here or on a cluster.
"""
