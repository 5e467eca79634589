# SPDX-License-Identifier: MIT
# usage: gnuplot -e "csv='bus-raw.csv'; svg='bus-plot.svg'" plot-bus.gp
# How many faults took at most so long, while nobody looks, another broker is read, and their own broker is read.
set terminal svg size 900,600 font "sans,12"
set output svg
set datafile separator ","
set logscale x
set xlabel "microseconds a fault (log)"
set ylabel "part of the faults"
set yrange [0:1]
set grid
set key bottom right noenhanced
modes = "quiet other read"
# Once each: a function would be called for every line.
array number[3]
do for [m=1:3] {
        number[m] = system(sprintf("grep -c '^%s,' %s", word(modes, m), csv)) + 0.0
}
plot for [m=1:3] csv using ((strcol(1) eq word(modes, m)) ? $3 / 1000 : NaN):(1 / number[m]) \
        smooth cumulative with lines linewidth 2 title word(modes, m)
