"""The allocation of offers to members: a linear program with shared rows, solved, certified and rounded."""
