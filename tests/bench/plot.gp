# usage: gnuplot -e "csv='raw.csv'; svg='bench.svg'" plot.gp
# Distribution of every access: backing, pinning and pattern across, contestants side by side.
set terminal svg size 1400,900 font "sans,11"
set output svg
set datafile separator ","
set logscale y
set ylabel "microseconds an access (log)"
set style fill solid 0.4 border -1
set style boxplot nooutliers
set boxwidth 0.7
set grid ytics
unset key
contestants = "pagebroker uffd-page uffd-64k mmap"
backings = "4K 2M"
pinnings = "one-cpu two-cpus unpinned"
patterns = "page range64k scatter64 sparse"
set xtics rotate by -30 noenhanced
set multiplot layout 2,3 title "from left to right in each group: pagebroker (violet), uffd-page (green), uffd-64k (blue), mmap (orange)"
do for [b=1:2] {
        do for [p=1:3] {
                set title sprintf("%s backing, %s", word(backings, b), word(pinnings, p))
                set xtics ()
                set for [t=1:4] xtics add (word(patterns, t) t * 5 - 2.5)
                plot for [t=1:4] for [c=1:4] csv using (t * 5 - 5 + c): \
                        ((strcol(1) eq word(backings, b) && strcol(2) eq word(pinnings, p) && \
                          strcol(3) eq word(patterns, t) && strcol(4) eq word(contestants, c)) ? $5 / 1000 : NaN) \
                        with boxplot linecolor c
        }
}
unset multiplot
