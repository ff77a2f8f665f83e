module phala/loadgen

go 1.21
