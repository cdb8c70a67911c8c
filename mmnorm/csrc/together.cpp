// All but the loops of the passes, compiled as one file: the headers of PyTorch that each of these starts with take a
// compiler longer than all that is in them.
#include "mixing.cpp"
#include "module.cpp"
#include "nets.cpp"
#include "nodes.cpp"
#include "passes.cpp"
#include "pools.cpp"
#include "sparsestmax.cpp"
#include "step.cpp"
