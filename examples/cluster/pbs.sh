#!/bin/sh
# Nodes for a Parasnake job, as an array of PBS. Change what is marked, then submit it from the folder
# of your script:
#
#     qsub pbs.sh
#     qsub -J 1-100 pbs.sh                     options on the command line win
#
# With Torque write -t in the place of -J.
#
#PBS -N squares
#PBS -J 1-32
#PBS -l nodes=1:ppn=16
#PBS -l walltime=8:00:00
#PBS -j oe
#PBS -S /bin/sh

# <- what your cluster needs, such as: module load python

cd "$PBS_O_WORKDIR" || exit 1

python=${PYTHON:-.venv/bin/python}             # <- your interpreter or virtual environment
script=${SCRIPT:-squares.py}                   # <- your script
access=${ACCESS:-squares.access}               # <- the server was started with --access and this file

# exec, so that signals of PBS reach Parasnake, and not a shell that does nothing with them.
# auto takes the number of workers from what PBS has granted.
exec "$python" "$script" --access "$access" --workers auto
