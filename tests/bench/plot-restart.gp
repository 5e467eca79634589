# SPDX-License-Identifier: MIT
# usage: gnuplot -e "csv='restart-raw.csv'; svg='restart-plot.svg'" plot-restart.gp
# How many kills had cost at most so long when the next page was there.
set terminal svg size 900,600 font "sans,12"
set output svg
set datafile separator ","
set xlabel "milliseconds from the kill to the next page"
set ylabel "part of the kills"
set xrange [0:*]
set yrange [0:1]
set grid
set key bottom right noenhanced
kinds = "linked userfaultfd"
array number[2]
do for [k=1:2] {
        number[k] = system(sprintf("grep -c '^%s,' %s", word(kinds, k), csv)) + 0.0
}
plot for [k=1:2] csv using ((strcol(1) eq word(kinds, k)) ? $3 / 1000 : NaN):(1 / number[k]) \
        smooth cumulative with lines linewidth 2 title word(kinds, k)
