"""Tools for those who work on the project.

protos, settings   write the files that follow from the protos and the settings, and check that they are fresh
model_table        runs every family of models and writes docs/families.md
find_python.sh     finds an interpreter for `make setup`
engine/            measures the engine and the core by themselves
service/           measures what stands around a model: streams, front ends and the control channel
peers/             measures servers beside one another
gpu_proof/         proves the GPU path on a machine that is at hand for a few minutes
"""
