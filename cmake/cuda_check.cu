// Compiled, never linked: shows that nvcc and every chosen architecture work.
__global__ void ddit_cuda_check(float* x) { x[threadIdx.x] += 1.0f; }
