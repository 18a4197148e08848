#!/bin/sh
# Nodes for a Parasnake job, as a Slurm array. Change what is marked, then submit it from the folder
# of your script:
#
#     sbatch slurm.sh
#     sbatch --array=1-100 slurm.sh            options on the command line win
#
#SBATCH --job-name=squares
#SBATCH --array=1-32                           # so many nodes: each is a batch job of its own
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16                     # so many workers on each
#SBATCH --time=8:00:00
#SBATCH --output=slurm-%A-%a.out
#SBATCH --open-mode=append                     # one that was requeued goes on in the same file
#SBATCH --requeue                              # after a failure of the machine, or preemption

# <- what your cluster needs, such as: module load python

python=${PYTHON:-.venv/bin/python}             # <- your interpreter or virtual environment
script=${SCRIPT:-squares.py}                   # <- your script
access=${ACCESS:-squares.access}               # <- the server was started with --access and this file

# exec, so that signals of Slurm reach Parasnake, and not a shell that does nothing with them.
# auto takes the number of workers from what Slurm has granted.
exec "$python" "$script" --access "$access" --workers auto
