// solve/symmetric_eigen: eigenvalues and vectors of a small symmetric matrix, without LAPACK.
#pragma once

#include <vector>

namespace lowbit {

// a [n][n] symmetric -> eigenvalues, falling, and vectors [n][n] whose row i belongs to value i, orthonormal. Cyclic Jacobi in double
// (Golub and Van Loan, section 8.5): about 10 n^3 flops per sweep, so for n up to a few hundred. Non-finite input gives non-finite values.
struct SymmetricEigen {
  std::vector<double> values, vectors;
};
SymmetricEigen EigenSymmetric(std::vector<double> a, int n);

}  // namespace lowbit
