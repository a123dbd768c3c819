// What linear.cpp and attention.cpp offer to backend.cpp.
#pragma once

#include "traits.h"

namespace edgereason {

// Repacks `data`, the tensor's bytes in ggml's layout, into the tensor.
void set_linear(ggml_tensor * weights, const void * data);

// What computes with these weights, or nullptr if they don't fit: Q4_0 and Q8_0 matrices of full tiles.
ggml::cpu::tensor_traits * linear_for(const ggml_tensor * weights);

// What computes this operation, or nullptr if llama.cpp should.
ggml::cpu::tensor_traits * attention_for(const ggml_tensor * op);

}  // namespace edgereason
